"""Small files made by hand after the documentation of public data sets: name -> text, by preset."""

TAB = "\t"


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


RECBOLE = {
    "shop.inter": rows(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "007\t10\t5\t978300760",
        "007\t20\t3\t978302109",
        "007\t30\t3.5\t978301968",
        "8\t20\t4\t978300275",
    ),
    "shop.item": rows(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\tvector:float_seq",
        '10\tToy "Story"\t1995\tAnimation Comedy\t0.5 -1',
        "20\tJumanji\t1995\tAdventure\t2 3.5",
        "30\tHeat\t\t\t",
    ),
    "shop.user": rows("user_id:token\tage:token\tzip_code:token", "007\t25\t01048", "8\t56\t70072"),
}

MIND = {
    "behaviors.tsv": rows(
        "1\tU7\t11/15/2019 8:30:05 AM\tN1 N2\tN3-0 N4-1",
        "2\tU8\t11/15/2019 12:00:00 PM\t\tN1-1 N4-0 N3-0",
        "3\tU7\t11/14/2019 11:59:59 PM\tN1 N2\tN4-0 N2-1",
    ),
    "news.tsv": rows(
        'N1\tsports\tsoccer\tThe "big" game\tWho won\thttps://a\t[{"Label": "x"}]\t[]',
        "N2\tnews\tworld\tA title\t\thttps://b\t[]\t[]",
        "N3\tnews\tus\tAnother\tText\thttps://c\t[]\t[]",
        "N4\tfood\trecipes\tSoup\tHot, and good\thttps://d\t[]\t[]",
    ),
}

_HASH = "03a5648a76832f83,7bc94a2da491829b"
_AFFINITY = ",".join(f"user-item_affinity_{item}" for item in range(3))
OPEN_BANDIT = {
    "all.csv": rows(
        ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,"
        f"user_feature_3,{_AFFINITY}",
        f"0,2019-11-24 00:00:00.004101+00:00,1,2,0,0.0125,81ce123cbb5bd8ce,{_HASH},c39b0c7dd5d4,0,1,0",
        f"1,2019-11-24 00:00:00.004101+00:00,0,1,1,0.0125,81ce123cbb5bd8ce,{_HASH},c39b0c7dd5d4,0,1,0",
        f"2,2019-11-25 09:00:01+00:00,2,3,0,0.0120,cef3390ed299c09874189c387777674a,{_HASH},x,0,0,0",
    ),
    "item_context.csv": rows(
        ",item_id,item_feature_0,item_feature_1", "0,0,-0.4991,0a1b", "1,1,0.3,0a1c", "2,2,1.25,0a1b"
    ),
}

_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
KUAIRAND = {
    "log_standard_4_08_to_4_21_pure.csv": rows(
        _LOG,
        "17387,441,20220421,400,1650485801301,1,1,0,0,0,0,1,151024,104400,0,0,0,0,1",
        "17387,442,20220421,400,1650485999000,0,0,0,0,0,0,0,1000,104400,0,0,0,0,1",
    ),
    "log_standard_4_22_to_5_08_pure.csv": rows(
        _LOG, "9,441,20220422,1500,1650610000000,1,0,0,0,0,0,0,9000,104400,0,0,0,0,2"
    ),
    "video_features_basic_pure.csv": rows(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
        "server_height,music_id,music_type,tag",
        '441,5,NORMAL,2020-07-08,ShortImport,1,17200.0,720,1280,989206467,4,"12,65"',
        "442,6,AD,2020-07-09,ShortImport,1,,720,1280,1,4,",
    ),
    "user_features_pure.csv": rows(
        "user_id,user_active_degree,is_video_author,follow_user_num_range,register_days_range",
        '17387,full_active,1,"(0,10]",730+',
        "9,high_active,0,0,15-30",
    ),
}


def _ipinyou(kind: str, stamp: str, user: str, creative: str, paid: str) -> str:
    cells = [
        *("bid" + stamp[-3:], stamp, kind, user, "Mozilla/5.0", "115.45.195.*", "216", "219", "1", "domain", "url"),
        *("null", "slot", "300", "250", "2", "1", "0", creative, "300", paid, "landing", "1458", "10006,10110"),
    ]
    return TAB.join(cells)


IPINYOU = {
    "imp.20130606.txt": rows(
        _ipinyou("1", "20130606000104828", "Vhk7", "7781", "51"),
        _ipinyou("1", "20130606000105000", "null", "7781", "60"),
        _ipinyou("1", "20130606000200001", "Vh99", "7782", "70"),
    ),
    "clk.20130606.txt": rows(_ipinyou("2", "20130606000130828", "Vhk7", "7781", "51")),
    "conv.20130606.txt": rows(_ipinyou("3", "20130606010130999", "Vhk7", "7781", "51")),
}

TAOBAO_ADS = {
    "raw_sample.csv": rows(
        "user,time_stamp,adgroup_id,pid,nonclk,clk",
        "581738,1494137644,1,430548_1007,1,0",
        "449818,1494638778,3,430548_1007,0,1",
        "914836,1494650879,4,430539_1007,1,0",
    ),
    "ad_feature.csv": rows(
        "adgroup_id,cate_id,campaign_id,customer,brand,price",
        "1,6406,83237,1,95471,170.0",
        "3,6406,83237,1,,199.5",
        "4,392,9,2,87331,38",
    ),
    "user_profile.csv": rows(
        "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
        "new_user_class_level ",
        "581738,0,5,2,5,,3,0,3",
        "449818,5,2,2,2,2,3,1,",
    ),
    "behavior_log.csv": rows(
        "user,time_stamp,btag,cate,brand", "581738,1493741625,pv,6250,91286", "581738,1493741626,buy,6250,91286"
    ),
}

REES46 = {
    "2019-Oct.csv": rows(
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
        "2019-10-01 00:00:00 UTC,view,0044,21,electronics.smartphone,apple,489.07,541,s1",
        "2019-10-01 00:00:10 UTC,cart,0044,21,electronics.smartphone,apple,489.07,541,s1",
        "2019-10-01 00:00:20 UTC,remove_from_cart,0044,21,electronics.smartphone,apple,489.07,541,s1",
    ),
    "2019-Nov.csv": rows(
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
        "2019-11-01 00:00:00 UTC,purchase,0044,21,electronics.smartphone,apple,480.00,541,s2",
        "2019-11-01 00:01:00 UTC,view,17,22,,,12.5,542,s3",
    ),
}

AMAZON_REVIEWS = {
    "All_Beauty.jsonl": rows(
        '{"rating": 5.0, "title": "Fine", "text": "Good", "images": [], "asin": "B00A", "parent_asin": "B00P", '
        '"user_id": "AGKH", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}',
        '{"rating": 1.0, "title": "2019-01-01", "text": "Bad", "images": [], "asin": "B00C", "parent_asin": "B00Q", '
        '"user_id": "AGKH", "timestamp": 1588687800000, "helpful_vote": 2, "verified_purchase": false}',
        '{"rating": 4.0, "title": "Okay", "text": "", "images": [], "asin": "B00A", "parent_asin": "B00P", '
        '"user_id": "AAAA", "timestamp": 1388687728000, "helpful_vote": 0, "verified_purchase": true}',
    ),
    "meta_All_Beauty.jsonl": rows(
        '{"main_category": "All Beauty", "title": "Cream", "average_rating": 4.8, "rating_number": 10, "features": '
        '["soft", "light"], "description": [], "price": 12.5, "images": [{"thumb": "x"}], "videos": [], "store": '
        '"Howard", "categories": ["Beauty", "Skin"], "details": {"Weight": "1"}, "parent_asin": "B00P", '
        '"bought_together": null}',
        '{"main_category": "All Beauty", "title": "Comb", "average_rating": 4.0, "rating_number": 3, "features": [], '
        '"description": ["For hair."], "price": null, "images": [], "videos": [], "store": "Yes To", "categories": '
        '[], "details": {}, "parent_asin": "B00Q", "bought_together": null}',
    ),
}

FILES = {
    "recbole": RECBOLE,
    "mind": MIND,
    "open_bandit": OPEN_BANDIT,
    "kuairand": KUAIRAND,
    "ipinyou": IPINYOU,
    "taobao_ads": TAOBAO_ADS,
    "rees46": REES46,
    "amazon_reviews": AMAZON_REVIEWS,
}
